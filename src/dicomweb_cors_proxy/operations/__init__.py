"""The process: workers, signals, reloading, certificates, and the service manager.

Read process first, then supervisor, worker_pool and worker, live_settings and certificates.
"""

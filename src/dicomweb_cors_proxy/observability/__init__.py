"""Logs and metrics that hold no patient data.

Read records first, then log_format and log_setup; metrics and shared_metrics count, and
exposition writes what metrics has counted.
"""

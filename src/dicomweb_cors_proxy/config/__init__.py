"""The settings: their names, kinds, sources, and the problems with them.

Read settings first, then loading and sources; kinds and pem_files check single values.
"""

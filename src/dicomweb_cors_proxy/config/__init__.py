"""The settings: their names, kinds, sources, and the problems with them.

Read fields and settings first, then loading, sources and yaml_file. The modules kinds and pem_files
check single values, validation checks them together, and report yields warnings.
"""

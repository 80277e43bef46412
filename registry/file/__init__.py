"""The back end ``file``: services from YAML and JSON files, watched by inotify."""

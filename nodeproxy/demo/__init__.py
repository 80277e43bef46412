"""The demonstration: a small cluster of network namespaces on one machine."""

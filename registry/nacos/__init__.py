"""Nacos: services and their instances, by polling."""

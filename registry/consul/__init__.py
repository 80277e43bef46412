"""Consul: services of the catalog with their health, by blocking queries."""

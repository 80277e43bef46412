"""Kubernetes: Services and EndpointSlices from the API server, by list and watch."""

"""Routing by the Gateway API's objects: pure, and compiled before the first request."""

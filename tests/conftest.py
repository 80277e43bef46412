"""Shared by every level of tests."""

"""Eureka: applications and their instances, by polling."""

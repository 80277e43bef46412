"""The back end ``aws``: Cloud Map, target groups of load balancers, and EC2 instances by tag."""

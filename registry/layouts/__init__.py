"""What deployments write into key-value stores, decoded.

Nothing here knows etcd, ZooKeeper or any socket: a layout reads the path of a key below the
configured prefix and its value. :mod:`registry.layouts.table` joins what the keys say to services,
:mod:`registry.layouts.publisher` tells a sink of those that changed.
"""

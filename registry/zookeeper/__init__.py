"""ZooKeeper by kazoo; see :mod:`registry.zookeeper.backend`."""

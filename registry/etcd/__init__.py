"""etcd v3 by its JSON gateway; see :mod:`registry.etcd.backend`."""

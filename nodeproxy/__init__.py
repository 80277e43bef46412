"""nodeproxy: a service mesh in one process per node.

``core`` decides, ``dataplane`` carries, ``telemetry`` tells, ``admin`` and ``cli`` ask,
``daemon`` composes. The packages ``registry`` (who is out there) and ``iptables`` (how
traffic reaches us) stand beside it and import nothing of it.
"""

__version__ = "0.1.0"

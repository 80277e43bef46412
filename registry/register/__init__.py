"""The other direction: this node's own services are told to a registry, while they are well.

:mod:`options` is what is configured, :mod:`health` and :mod:`machine` decide (pure),
:mod:`encode` writes what the read side's layouts read, :mod:`checks` asks a service how it is,
:mod:`target` and the files of the three kinds talk to registries, :mod:`runner` ties them together.
"""

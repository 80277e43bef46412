"""Names for services: ``web.shop.mesh`` for ``shop/web``.

:mod:`nodeproxy.dns.names` says which name a service has, :mod:`nodeproxy.dns.answer` is a pure
function from a query's bytes to those of its answer, and :mod:`nodeproxy.dns.server` carries both
over UDP and TCP.
"""

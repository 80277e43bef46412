"""The reactor and its lanes; listeners, the outbound path, relays and upstream pools."""

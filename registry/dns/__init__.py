"""DNS: addresses and SRV records of configured names, asked again when their TTL is over."""

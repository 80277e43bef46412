"""The back end ``xds``: endpoints of Envoy's discovery service, by REST or from files."""

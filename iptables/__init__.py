"""How traffic reaches the proxy: rules, sets, the live switch. Imports nothing else of ours."""

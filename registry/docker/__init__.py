"""The back end ``docker``: the containers of this machine, or the services of a Swarm."""

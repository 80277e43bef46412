"""Pure decisions: no socket, no trio, no clock of their own; time and randomness are arguments."""

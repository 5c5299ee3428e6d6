"""What tests that start processes share."""

#: Seconds after which a test gives up on other processes: only one that hangs takes so long, on a busy machine too.
PATIENCE = 600

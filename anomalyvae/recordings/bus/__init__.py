"""Vehicle buses: CAN logs and MF4 files, decoded by a database of messages, J1939 or OBD-II."""

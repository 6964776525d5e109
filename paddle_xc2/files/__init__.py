"""Files in general: read within bounds, written aside and renamed, locked, told apart."""

"""What people read: tables of one or several runs."""

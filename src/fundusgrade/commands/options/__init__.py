"""Options and arguments that several commands share, by subject, each declared once with what it stands for."""

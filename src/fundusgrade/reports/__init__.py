"""Results -> what people read: tables, figures and pages."""

"""What people read: tables, figures and the report page, all made from certificates."""

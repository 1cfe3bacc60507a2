"""Names, edges, orders, longest chains. Pure: no input or output, no clock."""

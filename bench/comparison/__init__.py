"""What bench/compare is made of: places, tools, cases, measuring and the table."""

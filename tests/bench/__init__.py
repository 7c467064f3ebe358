"""`make bench`: every absolute bar as a line beside a named baseline, both measured in the same run."""

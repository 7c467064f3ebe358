"""A run as one history: kept, walked in both directions, branched by edits, saved and replayed."""

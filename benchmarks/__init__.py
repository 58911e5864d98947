"""Side by side with peers, in one run each: a table on stdout, JSON where asked."""

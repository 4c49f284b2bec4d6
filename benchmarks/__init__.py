"""Speed and memory of `tutor`, measured beside other libraries: ``make bench``."""

"""From interactions to a POD dataset folder: readers, preparation, statistics and a synthetic world."""

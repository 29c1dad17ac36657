//! A disk without room: nothing is lost, and it goes on when there is room again.

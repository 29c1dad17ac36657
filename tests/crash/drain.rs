//! An ingester that is told to stop hands over what it has.

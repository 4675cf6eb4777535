//! Images from files.

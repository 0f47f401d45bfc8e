//! Cutting a byte stream into PDUs.

//! Reading certificates.

/// A serial number as it is written everywhere: lower-case hexadecimal without leading zeros.
pub fn serial_hex(serial: &[u8]) -> String {
    let first = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    countersign_keys::hash::hex(serial.get(first..).unwrap_or_default())
}

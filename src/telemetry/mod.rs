//! What leaves the program besides answers: the record of requests.

pub mod records;

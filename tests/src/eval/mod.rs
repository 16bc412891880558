//! Scores of the pure parts on labelled data that is not part of the product.
//!
//! In: a folder of data, named on the command line of `faultline-eval`. Out: figures, and where the part falls
//! short. Nothing here is tuned to a file: families of messages come from the kernel's sources, and the half of the
//! data that nobody looked at is printed apart.

pub mod kmsg;
pub mod kmsg_data;

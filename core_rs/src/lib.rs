//! Numeric core of StageVAR: what is too slow in TypeScript, and every random number.
//!
//! Knows plain row-major arrays and nothing of models, scales or plans. Arguments are checked by the only
//! callers, `src/core.ts` and, for PNG, `src/png_band.ts`; a kernel that meets a value no check of lengths can catch (a NaN)
//! returns `None`.

pub mod codes;
pub mod deflate;
pub mod latent;
pub mod png;
pub mod projection;
pub mod random;
pub mod resize;
pub mod rows;
pub mod spectrum;

//! `headstart plan`: what would be bought for these pods, and why.
mod form;
mod table;
mod words;

//! dev_stack

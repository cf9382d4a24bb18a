package sqlstore

// ForgetBy is forgetBy, and ForgottenAtOnce its usual number of rows, for benchmarks.
var ForgetBy = (*Store).forgetBy

const ForgottenAtOnce = forgottenAtOnce

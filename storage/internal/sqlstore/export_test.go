package sqlstore

// ForgetBy and ForgottenAtOnce give benchmarks access to forgetBy and its usual number of rows.
var ForgetBy = (*Store).forgetBy

const ForgottenAtOnce = forgottenAtOnce

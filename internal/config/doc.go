// Package config reads, checks and prints the configuration. It is the only
// package that knows viper.
//
// # Where a value comes from
//
// A flag beats the environment, which beats the file, which beats Default. The
// key of a setting is its path through Config, such as freshness.max_staleness;
// the flag has the same name (--freshness.max_staleness), the environment variable
// is KEYSIDECAR_ and the key in upper case with dots as underscores
// (KEYSIDECAR_FRESHNESS_MAX_STALENESS). An empty variable counts as not set.
// Secrets have no flag, because command lines can be read by every user of a
// machine.
//
// # Mistakes
//
// A key in the file that does not exist is an error that names its line and the
// nearest key there is: a setting that is silently ignored is a security setting
// that is silently off. An unknown variable of the environment is only a warning,
// because Kubernetes puts KEYSIDECAR_PORT and the like into every pod of a
// namespace that has a Service called keysidecar.
//
// Every value is read as text and parsed here by the type of its field, never
// guessed from how YAML or viper would type it: 0660 is an octal mode in the file
// as in the environment, and a duration without a unit is an error, not
// nanoseconds.
//
// Validate finds what is wrong with the values themselves, CheckFiles what is
// wrong with the files they name. Both report everything at once, each problem
// with its key, its value, where the value came from, and what would mend it.
package config

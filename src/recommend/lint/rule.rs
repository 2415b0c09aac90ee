//! The rules, each with its id and what it is about.

use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; depends on something that the files do not say.
    Note,
    /// It works, but not well.
    Warning,
    /// It does not do what it is there for.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Writes the enum of rules and what each one says of itself.
macro_rules! rules {
    ($($rule:ident $id:literal $severity:ident $summary:literal)*) => {
        /// A rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $summary] $rule,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Rule] = &[$(Rule::$rule),*];

            /// The name in outputs.
            pub const fn id(self) -> &'static str {
                match self { $(Rule::$rule => $id),* }
            }

            /// What it finds, in a sentence without a period.
            pub const fn summary(self) -> &'static str {
                match self { $(Rule::$rule => $summary),* }
            }

            /// How bad its findings are, where nothing makes them more or less so.
            pub const fn severity(self) -> Severity {
                match self { $(Rule::$rule => Severity::$severity),* }
            }
        }
    };
}

rules! {
    UnreadableYaml "unreadable-yaml" Error "The file is not YAML"
    ApiVersion "api-version" Error "The API version is gone from the API server, or knows CPU only"
    Placeholder "placeholder" Error "A placeholder stands where a value belongs"
    ApiRejects "api-rejects" Error "The API server refuses the object"
    UnknownField "unknown-field" Error "The API server refuses or drops a field that it does not know"
    NoMetrics "no-metrics" Warning "Without metrics the API server fills in CPU at 80 %"
    DeadTarget "dead-target" Error "The metric cannot rise far enough above the target to scale up"
    TooLate "too-late" Error "The SLO breaks before the metric scales up"
    CannotComeDown "cannot-come-down" Warning "Replicas that were added do not go away again"
    FlapProne "flap-prone" Warning "Taking a replica away raises the metric enough to bring it back"
    QueueOnly "queue-only" Warning "The queue alone ends in a limit cycle"
    TwoHpas "two-hpas" Error "Two autoscalers on one workload: neither scales, or one replaces the other"
    ExternalWithoutCluster "external-without-cluster" Warning "An External metric sums series of other clusters or namespaces"
    ExternalUpperCase "external-upper-case" Error "External metric names are lower-cased on the wire and never match"
    AverageOfAverages "average-of-averages" Error "An average over pods is divided by the number of pods once more"
    MultiGpuSum "multi-gpu-sum" Warning "The series of a replica's GPUs are summed"
    ToleranceUnsupported "tolerance-unsupported" Error "The cluster drops the tolerance without a word"
    ToleranceTooLarge "tolerance-too-large" Warning "A tolerance so large that hardly anything scales"
    BehaviorForTolerance "behavior-for-tolerance-only" Warning "A behavior that only sets a tolerance changes the scaling limits too"
    KedaDeprecatedTrigger "keda-deprecated-trigger" Warning "KEDA gives this trigger no more changes"
    MissingAsZero "missing-as-zero" Warning "Missing data counts as 0 and scales down"
    ScaleToZero "scale-to-zero" Warning "Down to no replica at all"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rule_has_an_id_of_its_own_and_a_sentence() {
        let ids: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        assert_eq!(ids.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            assert!(rule.id().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", rule.id());
            assert!(!rule.summary().ends_with('.'), "{}", rule.id());
        }
    }
}

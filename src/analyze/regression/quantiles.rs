//! Quantiles of the distributions that a comparison is judged by.

/// The standard normal quantile of `p` within (0, 1), to nine digits (Acklam 2003).
pub(super) fn normal(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    const TAIL: f64 = 0.02425;
    let polynomial = |of: &[f64], x: f64| of.iter().fold(0.0, |sum, coefficient| sum * x + coefficient);
    let tail = |p: f64| {
        let x = (-2.0 * p.ln()).sqrt();
        polynomial(&C, x) / polynomial(&D, x)
    };
    if p < TAIL {
        tail(p)
    } else if p > 1.0 - TAIL {
        -tail(1.0 - p)
    } else {
        let x = p - 0.5;
        x * polynomial(&A, x * x) / polynomial(&B, x * x)
    }
}

/// The quantile of Student's t with `df` degrees of freedom: exact for one and two, within a percent beyond
/// (the expansion of Cornish and Fisher).
pub(super) fn student(p: f64, df: usize) -> f64 {
    let (z, n) = (normal(p), df.max(1) as f64);
    match df {
        0 | 1 => (std::f64::consts::PI * (p - 0.5)).tan(),
        2 => (2.0 * p - 1.0) * (2.0 / (4.0 * p * (1.0 - p))).sqrt(),
        _ => {
            z + (z.powi(3) + z) / (4.0 * n)
                + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n.powi(2))
                + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * n.powi(3))
        }
    }
}

/// The quantile of chi squared with `df` degrees of freedom, within three percent (Wilson and Hilferty 1931).
pub(super) fn chi_squared(p: f64, df: usize) -> f64 {
    let n = df.max(1) as f64;
    let spread = 2.0 / (9.0 * n);
    n * (1.0 - spread + normal(p) * spread.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles out of printed tables.
    #[test]
    fn quantiles_agree_with_tables() {
        let near = |got: f64, table: f64, within: f64| {
            assert!((got / table - 1.0).abs() < within, "{got} is not {table}");
        };
        for (p, table) in [(0.95, 1.644_854), (0.975, 1.959_964), (0.999, 3.090_232), (0.05, -1.644_854)] {
            near(normal(p), table, 1e-6);
        }
        for (p, df, table) in [
            (0.95, 1, 6.313_75),
            (0.95, 2, 2.919_99),
            (0.975, 2, 4.302_65),
            (0.95, 3, 2.353_36),
            (0.975, 4, 2.776_45),
            (0.95, 10, 1.812_46),
            (0.99, 30, 2.457_26),
        ] {
            near(student(p, df), table, 0.011);
        }
        for (df, table) in [(1, 3.841), (2, 5.991), (4, 9.488), (10, 18.307)] {
            near(chi_squared(0.95, df), table, 0.03);
        }
    }
}

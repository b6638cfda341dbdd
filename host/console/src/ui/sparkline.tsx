// A line without axes; the figures beside it say the same.

export function Sparkline(props: { values: number[]; width?: number; height?: number }) {
  const { values, width = 96, height = 22 } = props;
  const top = Math.max(...values, 0);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, place) => {
    const y = top === 0 ? height - 1 : height - 1 - (value / top) * (height - 2);
    return `${(place * step).toFixed(1)},${y.toFixed(1)}`;
  });
  return (
    <svg class="spark" width={width} height={height} aria-hidden="true">
      {values.length > 1 && <polyline points={points.join(" ")} />}
    </svg>
  );
}

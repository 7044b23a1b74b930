// A click on a column's head sorts its table; everything is readable without it.
document.documentElement.classList.add("js")
const number = text => parseFloat(text.replace(/[\[,]/g, ""))
const key = (row, column) => row.cells[column].textContent.trim()
const sort = head => {
  const table = head.closest("table"), column = head.cellIndex
  const down = head.getAttribute("aria-sort") === "ascending"
  const rows = [...table.rows].slice(1).sort((a, b) => {
    const [x, y] = [key(a, column), key(b, column)]
    const order = number(x) - number(y) || x.localeCompare(y)
    return (Number.isNaN(number(x)) || Number.isNaN(number(y)) ? x.localeCompare(y) : order) * (down ? -1 : 1)
  })
  for (const other of table.rows[0].cells) other.removeAttribute("aria-sort")
  head.setAttribute("aria-sort", down ? "descending" : "ascending")
  table.tBodies[0].append(...rows)
}
for (const head of document.querySelectorAll("th")) {
  head.tabIndex = 0
  head.addEventListener("click", event => { if (event.target.tagName !== "A") sort(head) })
  head.addEventListener("keydown", event => { if (event.key === "Enter" && event.target === head) sort(head) })
}

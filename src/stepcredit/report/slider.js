for (const box of document.querySelectorAll(".compare")) {
  const range = box.querySelector("input[type=range]");
  const apart = box.querySelector("input[type=checkbox]");
  const chosen = [...box.querySelectorAll("select")];
  const figures = [...box.querySelectorAll("figure")];
  const grids = box.querySelector(".grids");

  const show = () => {
    const [left, right] = chosen.length ? chosen.map((one) => one.selectedIndex) : [0, 1];
    figures.forEach((figure, index) => {
      figure.classList.toggle("left", index === left);
      figure.classList.toggle("right", index === right);
    });
    const name = figures[left].querySelector("figcaption").textContent;
    box.style.setProperty("--share", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value}% ${name}`);
    range.disabled = apart.checked;
    box.classList.toggle("overlaid", !apart.checked);
  };

  const drag = (event) => {
    if (event.buttons !== 1 || apart.checked) return;
    const { left, width } = grids.getBoundingClientRect();
    range.value = (100 * (event.clientX - left)) / width;
    show();
  };

  grids.addEventListener("pointerdown", drag);
  grids.addEventListener("pointermove", drag);
  box.addEventListener("input", show);
  box.querySelector(".controls").hidden = false;
  show();
}
